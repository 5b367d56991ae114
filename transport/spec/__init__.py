"""The wire and the HTTP endpoints as AsyncAPI and OpenAPI documents."""
