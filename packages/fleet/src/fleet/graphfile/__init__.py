"""The whole memory as a file of JSON lines, out of one graph database and into another, Neo4j or the embedded one."""
