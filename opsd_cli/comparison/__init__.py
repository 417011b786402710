"""Methods side by side: what each run measured, what may be compared, and what follows.

runs -> curves -> comparable groups -> tokens to a target, ratios with intervals -> a verdict
"""
