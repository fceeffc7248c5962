"""What a catalogue of any size would cost, on paper: disk, memory, time and money of each method."""
