"""An edge cache whose dynamic content is made by untrusted programs in VMs (`sandbox`).

Its rooms import downwards only; `edge` joins them, `cli` is on top. docs/architecture.md tells the way of a request.
"""
