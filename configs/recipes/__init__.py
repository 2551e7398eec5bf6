"""Complete recipes of the papers, one file each, for a user who has the data on disk."""
