"""What a run says at its end: figures (report.json), a page (report.html), a data card, the terminal."""
