"""What placement policies are worth for given loads and nodes: plans, what failures do to them, and tables of both."""
