# placeholder, see helper B
