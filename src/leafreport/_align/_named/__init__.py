"""Two trees aligned where there is no program: by names, shapes and what adapters told of layers."""
