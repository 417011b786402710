"""Files that are whole or absent: replaced at once, appended to line by line."""
