"""Every choice a user can make. A package, so that an installed `isometry` carries it."""
