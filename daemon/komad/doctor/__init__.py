"""What this computer lacks: `facts` are gathered, `checks` judges them, `trial` tries a GPU."""
