"""Results for people: tables, files and plots."""
