"""Production as localstore meets it: connections, roles and policies, quoting, and a server of our own."""
