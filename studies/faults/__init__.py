"""Is a fault of the machine one clear line, and does the same command then go on without a loss?"""
