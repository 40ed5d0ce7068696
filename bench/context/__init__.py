"""`make bench-context`: what the context service does with a large memory, on the embedded graph server and on Neo4j."""
