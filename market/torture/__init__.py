"""`torg torture`: real processes write a real market's journal and blobs, die at every kind of write, and are held to their word."""
