"""From a miss to an answer: a source is asked, once for all who want the same, and what it says is judged, kept and passed on."""
