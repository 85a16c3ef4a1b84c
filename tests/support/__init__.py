"""What several tests need: data, servers, waiting, the toy experiment."""
