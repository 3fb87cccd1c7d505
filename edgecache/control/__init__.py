"""The API for operators and origins: sites, tokens, bundles, versions, purges and logs, and the state that outlives the process.

No request of a client comes here. `service` joins the room's parts, and `edge` calls it.
"""
