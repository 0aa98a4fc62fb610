"""The console: the page at /console as static files, which the Gateways serve out of the installed package."""
