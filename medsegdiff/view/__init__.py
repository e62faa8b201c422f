"""Pictures of a result for people: key slices, and a page to look through."""
