"""What goes wrong: nodes that die, freeze, flap and talk nonsense, under steady calls."""
