"""What every page needs: who may ask, static files, events, starting and stopping."""
