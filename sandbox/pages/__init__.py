"""A guest's memory page by page: where things stand, which were written, how they are put back. For `memory` and the engines."""
