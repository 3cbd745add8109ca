"""RealCustom++ (arXiv 2408.09744): a picture acts where a real word of the prompt is drawn, and nowhere else."""
