"""How the app runs on more than one machine."""
