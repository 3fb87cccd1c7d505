"""The guest's view of its machine: Linux calls, edge calls, files. Whatever a guest passes is hostile. `vm` calls it."""
