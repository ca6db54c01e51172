"""The servers, and what speaks to them; the command line and the demo stand on top."""
