"""The REST API as strangers meet it: Schemathesis and a generated client, by its document alone."""
