"""A bilevel problem and an LP backend for LiFT, in a package of their own."""
