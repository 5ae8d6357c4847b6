"""How statements reach the server: the driver's edge, the pool, and the runners.

Only `celers.db.driver` touches the MySQL driver.
"""
