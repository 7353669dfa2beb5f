"""What all HTTP interfaces share: keys, errors in OpenAI's form, bodies of requests, Ray Serve's port."""
