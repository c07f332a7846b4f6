"""What serving engines load: this planner behind their own policy calls."""
