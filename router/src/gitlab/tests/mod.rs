mod handouts;
