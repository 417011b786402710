"""What the backends have in common; nothing here knows of tensors."""
