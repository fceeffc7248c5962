"""Does anything get lost or damaged when processes are killed at any moment?"""
