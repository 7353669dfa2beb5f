"""The server: speed against one request after another and other servers, budgets, memory."""
