"""The demo: an archive of real photos that anyone can make, and queries whose right answers are known."""
