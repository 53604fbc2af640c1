"""One interface over tenants' data, and its backends on files and on Postgres."""
