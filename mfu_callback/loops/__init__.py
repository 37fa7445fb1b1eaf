"""The same measurement for loops without Lightning's Trainer: a loop of one's own, Fabric, Hugging Face's Trainer."""
