"""The processes of a run and how a network is spread over them."""
