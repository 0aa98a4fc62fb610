"""The routes of the console: its page and files, and the live figures that it shows."""
