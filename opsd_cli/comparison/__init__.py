"""Comparison of methods: learning curves, token-efficiency ratios and their intervals.

run directories -> curves -> comparable groups -> costs at a target accuracy, ratios -> summary
"""
