"""What `/metrics` exports to Prometheus. Nothing here runs until it is scraped: the numbers are counted elsewhere."""
