"""What people look at of an analysis: one page, and the pictures beside it. Numbers come from
``analysis.json`` alone."""
