"""SELECT and INSERT by subject. Session first, frozen rows out; the caller owns the transaction."""
