"""What every client of a server needs: its address, its key, and how answers and errors are read."""
