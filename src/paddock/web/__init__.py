"""The API and the pages: what people and programs see of the server over HTTP."""
