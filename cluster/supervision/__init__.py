"""A run that survives: its worker groups, who watches them, and what ends and restarts them."""
