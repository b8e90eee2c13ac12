"""From somebody's own table to a record: the file, what each column is, the trials."""
