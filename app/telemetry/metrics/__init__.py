"""What Prometheus reads at `/metrics`: the numbers that are counted anyway, put into its words when it asks.

Nothing here is touched while calls go on. `families` is the one door to prometheus-client, `calls`, `workers` and
`service` say which number has which name, `page` is the route.
"""
