"""Software engineering (paper, section 5.3): issues of repositories, patches that models write, their tests."""
