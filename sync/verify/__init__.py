"""How production and a tenant's file are compared: both streamed in the order of their keys, differences explained."""
