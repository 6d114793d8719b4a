"""What people see of a result: tables, files and plots."""
