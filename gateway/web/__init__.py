"""Who answers a request: the routes, the relay, and the listeners on which requests come."""
